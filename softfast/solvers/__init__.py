"""Solvers: functions of an objective.  They know nothing of softmax, nor of where rows live."""
