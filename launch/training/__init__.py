"""Work of the training programs: training, evaluation and reports of each."""
