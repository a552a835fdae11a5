"""A run's numbers, sent to TensorBoard, Weights & Biases, MLflow or Trackio while it works. Off unless asked for."""
