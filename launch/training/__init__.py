"""Training of networks for the neural engine: the work of `launch.nes_train`."""
