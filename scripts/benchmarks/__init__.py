"""The parts of scripts/bench, one benchmark a file; what they share is in machine.py and tables.py."""
