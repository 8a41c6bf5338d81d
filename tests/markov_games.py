"""Games for the tests of Markov games."""

import numpy as np

_ROWS = np.array([[2.0, 2.0, 0.0], [3.0, 2.0, 0.0], [1.0, 3.0, 1.0]])
# Symmetric game in which CE and CCE differ. Playing (0, 1) or (1, 0) with equal chances is a CCE
# worth 2.5 to each player. It is no CE: a player that is told 0 knows that the other plays 1, and
# gets 3 from 2, and 2 from 0. The best CE is (2, 2), worth 1 to each.
APART = np.stack([_ROWS, _ROWS.T])
