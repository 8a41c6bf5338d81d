"""launch.runtime.progress: the clock of compilation."""

from launch.runtime import progress


def test_compile_clock_counts_overlapping_spans_once():
  clock = progress.CompileClock()
  clock._spans = [(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (7.0, 8.0)]
  assert clock.seconds() == 6.0
