"""MLflow. Nothing else imports it."""
