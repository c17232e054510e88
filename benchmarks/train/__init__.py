"""How fast training is, here and in other libraries, on the same model, data and machine."""
