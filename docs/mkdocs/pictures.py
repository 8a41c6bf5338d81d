"""Copies pictures that programs draw into docs/images, with few colours: the files are small.

  python docs/mkdocs/pictures.py

`make pictures` runs the programs first.
"""

import pathlib

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Picture in out/ -> its name in docs/images.
PICTURES = {
    "demo/polytopes.png": "polytopes.png",
    "demo/gamut.png": "gamut.png",
    "pictures/market/targets_1.png": "calibration.png",
    "pictures/rate/ratings.png": "ratings.png",
    "pictures/region/region.png": "region.png",
    "pictures/market_game/market_game.png": "market_game.png",
}
_COLOURS = 64


def main() -> None:
  """Writes every picture anew."""
  for source, name in PICTURES.items():
    picture = Image.open(ROOT / "out" / source).convert("RGB")
    picture = picture.quantize(_COLOURS, dither=Image.Dither.NONE)
    target = ROOT / "docs" / "images" / name
    picture.save(target, optimize=True)
    print(f"wrote {target.relative_to(ROOT)}, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
  main()
