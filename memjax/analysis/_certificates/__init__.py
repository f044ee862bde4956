"""Which boxes of images hold no other class: intervals and lines through a network's jaxpr."""
