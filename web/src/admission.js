// Asks the server whether it would let this peer in. A browser hides why a
// WebSocket upgrade was refused; this request tells.

const TIMEOUT_MS = 8000;

/**
 * Resolves to one of
 *   {kind: 'welcome'}
 *   {kind: 'refused', reason}      asking again will not help
 *   {kind: 'busy', reason}         the server is up but takes nobody now
 *   {kind: 'unreachable', reason}  no answer
 */
export async function askAdmission(room, peerId) {
  const path = `/rooms/${encodeURIComponent(room)}/admission?peerId=${encodeURIComponent(peerId)}`;
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    return { kind: 'unreachable', reason: 'The server does not answer. It may be down, or the network is.' };
  }
  if (response.ok) return { kind: 'welcome' };
  const reason = await errorOf(response);
  return { kind: response.status >= 500 ? 'busy' : 'refused', reason };
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    if (typeof error === 'string' && error) return error;
  } catch {
    // Not JSON: say what is known.
  }
  return `The server refused with HTTP status ${response.status}.`;
}
