"""The work of `launch.nes_solve`: games of a file in parts, and the file of their answers."""
