"""Work of `launch.design_tolls`: networks, descents, tables and files."""
