"""Compiled blocks: what compiling needs of the machine, where compiled code is kept, and how long it takes."""
