"""Programs that check the software itself: with damaged files, killed runs, hard games, GPUs."""
