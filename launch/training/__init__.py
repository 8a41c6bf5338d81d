"""The work of the training programs: what each of them trains, evaluates and reports."""
