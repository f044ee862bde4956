"""SGD as one differentiable program: run forwards, kept in part, and swept backwards."""
