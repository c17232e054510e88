"""Steps whose loss or gradient norm is not sound: how they are found before the update, and what is done about them."""
