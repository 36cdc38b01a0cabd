"""The main job on one machine: a real campaign goes once around the loop, and the result is judged against the truth."""
