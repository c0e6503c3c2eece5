// The first screen: who you are, which room, and what the others will see.

import { byId, element, hueOf, initials } from './dom.js';
import { roomProblem } from './options.js';

/** `join(room, name)` is called when the form is complete. */
export function bindLobby({ call, media, options, join }) {
  const name = byId('name');
  const room = byId('room');
  name.value = options.name;
  room.value = options.room;

  byId('join-form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (call.state !== 'idle') return;
    const problem = name.value.trim() ? roomProblem(room.value.trim()) : 'Tell the others your name.';
    if (problem) {
      showNotice(byId('lobby-notice'), { kind: 'error', text: problem });
      (name.value.trim() ? room : name).focus();
      return;
    }
    join(room.value.trim(), name.value.trim());
  });

  name.addEventListener('input', () => renderPreview(media, name.value));
  media.addEventListener('change', () => renderPreview(media, name.value));
  renderPreview(media, name.value);
  (name.value ? byId('join') : name).focus();
}

export function renderLobby(call) {
  const busy = call.state === 'joining';
  const button = byId('join');
  button.disabled = busy;
  button.textContent = busy ? 'Joining…' : 'Join';
  showNotice(byId('lobby-notice'), call.notice);
}

/** Shows a notice in its place, or hides the place. */
export function showNotice(place, notice) {
  place.hidden = !notice;
  // Written only when it changes: a screen reader reads every write aloud.
  if (notice && place.textContent !== notice.text) place.textContent = notice.text;
  if (notice) place.dataset.kind = notice.kind;
}

function renderPreview(media, name) {
  const audio = media.of('audio');
  const video = media.of('video');
  const screen = byId('preview-video');
  const shown = screen.srcObject?.getTracks()[0] ?? null;
  if (shown !== video.track) screen.srcObject = video.track ? new MediaStream([video.track]) : null;
  screen.hidden = !video.track;
  const face = byId('preview-face');
  face.textContent = initials(name);
  face.style.setProperty('--hue', hueOf(name));
  byId('preview-text').textContent = previewText(audio, video);
  byId('preview-problems').replaceChildren(
    ...media.problems().map((text) => element('li', { textContent: `${text} You can join without.` })),
  );
}

function previewText(audio, video) {
  if (!audio.allowed && !video.allowed) return 'You will watch and listen only.';
  if (audio.asking || video.asking) return 'Allow the browser to use your camera and microphone.';
  if (video.track || video.problem) return '';
  if (!video.allowed) return 'You will take part with sound only.';
  return video.on ? 'Your camera starts when you join.' : 'Your camera is off.';
}
