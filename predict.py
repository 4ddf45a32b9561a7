"""Scores images, and point clouds with them; the same as the command `ast-predict`."""

from ast_jax.commands.start import predict

if __name__ == "__main__":
    predict()
