// Lays the tiles out so that all of them are seen and as large as possible.

const RATIO = 16 / 9;
const GAP = 12;
/** Tiles are not made smaller than this; the grid scrolls instead. */
const MIN_WIDTH = 150;

/** Keeps the tile size of `grid` right while it or its content changes. */
export function keepLaidOut(grid) {
  const lay = () => {
    const style = getComputedStyle(grid);
    const width = grid.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = grid.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const size = tileSize(grid.children.length, width, height);
    grid.style.setProperty('--tile-width', `${size.width}px`);
    grid.style.setProperty('--tile-height', `${size.height}px`);
  };
  new ResizeObserver(lay).observe(grid);
  new MutationObserver(lay).observe(grid, { childList: true });
}

/** The largest tile of which `count` fit into width × height, all in pixels. */
export function tileSize(count, width, height) {
  let best = { width: 0, height: 0, area: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const cellWidth = (width - GAP * (columns - 1)) / columns;
    const cellHeight = (height - GAP * (rows - 1)) / rows;
    // Up to a square, a tile may be higher than the picture: it crops, but
    // fills the upright screen of a phone.
    const tileWidth = Math.min(cellWidth, cellHeight * RATIO);
    const tileHeight = Math.min(cellHeight, tileWidth / (width < height ? 1 : RATIO));
    const area = tileWidth * tileHeight;
    if (area > best.area) best = { width: tileWidth, height: tileHeight, area };
  }
  if (best.width < MIN_WIDTH) best = { width: MIN_WIDTH, height: MIN_WIDTH / RATIO };
  return { width: Math.floor(best.width), height: Math.floor(best.height) };
}
