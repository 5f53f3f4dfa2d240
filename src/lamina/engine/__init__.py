"""What makes it fast. Knows no layer: tiles, matrix products, threads, the compiler."""
