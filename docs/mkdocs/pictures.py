"""Copies the pictures of `make demo` into docs/images, with few colours, so that files are small.

  python docs/mkdocs/pictures.py
"""

import pathlib

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Picture of `make demo` -> its name in docs/images.
PICTURES = {
    "polytopes.png": "polytopes.png",
    "gamut.png": "gamut.png",
    "market/targets_1.png": "calibration.png",
}
_COLOURS = 64


def main() -> None:
  """Writes every picture anew."""
  for source, name in PICTURES.items():
    picture = Image.open(ROOT / "out" / "demo" / source).convert("RGB")
    picture = picture.quantize(_COLOURS, dither=Image.Dither.NONE)
    target = ROOT / "docs" / "images" / name
    picture.save(target, optimize=True)
    print(f"wrote {target.relative_to(ROOT)}, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
  main()
