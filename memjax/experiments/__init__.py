"""One module for each figure of the paper: its table, its picture, its measures and claims."""
