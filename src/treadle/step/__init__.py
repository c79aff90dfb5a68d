"""4. What one update is: an objective, its gradients, and the optimizer's step."""
