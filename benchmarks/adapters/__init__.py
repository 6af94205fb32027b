"""One module per peer, each in that library's own fastest documented idiom."""
