"""The mesh: placements, conversions between them, strategies, and the program that one rank runs."""
