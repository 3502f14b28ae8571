"""What every other package stands on: types, checks, precision, memory, evaluation."""
