"""The main job: a folder of images becomes results."""
