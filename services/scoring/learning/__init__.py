"""What the models' trainings share. It runs in the training process: no database, no gRPC."""
