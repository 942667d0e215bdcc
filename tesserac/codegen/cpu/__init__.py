"""The CPU target: kernel records as C++17 with explicit vectors."""
