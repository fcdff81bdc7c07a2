"""What the tools for looking at models share: pictures read and drawn, and the maps that explain a network."""
