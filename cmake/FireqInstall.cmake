# Installation: filled in by the install rules of the layers.
