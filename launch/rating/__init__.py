"""Work of `launch.rate`: tables of scores, and reports of ratings."""
