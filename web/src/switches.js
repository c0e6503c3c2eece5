// The buttons that switch microphone and camera, on both screens.

import { icon } from './dom.js';

const LOOK = {
  audio: { icon: 'mic', on: 'Turn the microphone off', off: 'Turn the microphone on', thing: 'Microphone' },
  video: { icon: 'camera', on: 'Turn the camera off', off: 'Turn the camera on', thing: 'Camera' },
};

/** Makes every `[data-toggle]` button follow and switch `media`. */
export function bindSwitches(media) {
  const buttons = [...document.querySelectorAll('[data-toggle]')];
  const render = () => {
    for (const button of buttons) renderSwitch(button, media.of(button.dataset.toggle));
  };
  for (const button of buttons) {
    const kind = button.dataset.toggle;
    button.addEventListener('click', () => {
      const { on, track } = media.of(kind);
      // Wanted but not there: the click means "try again".
      if (on && !track) media.acquire();
      else media.set(kind, !on);
    });
  }
  media.addEventListener('change', render);
  render();
}

function renderSwitch(button, { allowed, on, track, problem }) {
  const look = LOOK[button.dataset.toggle];
  const live = on && (track !== null || !problem);
  const label = live ? look.on : look.off;
  button.hidden = !allowed;
  button.setAttribute('aria-pressed', String(live));
  button.setAttribute('aria-label', look.thing);
  button.title = problem ?? label;
  button.classList.toggle('problem', Boolean(problem));
  const picture = icon(live ? look.icon : `${look.icon}-off`, label);
  picture.setAttribute('aria-hidden', 'true');
  button.replaceChildren(picture);
}
