"""Where an agent lives: images, environments, replayed experience."""
