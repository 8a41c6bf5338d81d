"""Sizes and colours that all pictures share."""

from matplotlib import axes

# Font size in points. In a picture 9 inches wide, which a README shows at 830 pixels, this text is
# as large as the text of the page.
SIZE = 12.5
# Resolution of the picture files in dots per inch.
DPI = 200

BLUE = "#1f5fa8"
ORANGE = "#b8501a"
GREEN = "#0b6b3a"
RED = "#b3123a"
PURPLE = "#6b4c9a"

# Colours of the two solution concepts.
COLOURS = {"cce": BLUE, "ce": ORANGE}
# Colour of marks that stand out.
ACCENT = RED


def tidy(ax: axes.Axes, size: float = SIZE) -> None:
  """Removes the upper and the right border of a panel, and sets the size of its tick labels.

  Args:
    ax: the panel.
    size: font size in points.
  """
  ax.tick_params(labelsize=size, length=3)
  ax.spines[["top", "right"]].set_visible(False)


def shade_rows(ax: axes.Axes, count: int) -> None:
  """Shades every second of the rows 0, ..., count - 1 of a panel, and hides its left border."""
  for row in range(0, count, 2):
    ax.axhspan(row - 0.5, row + 0.5, color="0.955", lw=0, zorder=-1)
  ax.tick_params(axis="y", length=0)
  ax.spines["left"].set_visible(False)
