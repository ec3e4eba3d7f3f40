"""What every room uses: errors, files, formatting, signals, the command line."""
