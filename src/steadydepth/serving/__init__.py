"""A model over the network: images and streams of frames in, depth out, one session a terminal."""
