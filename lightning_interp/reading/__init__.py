"""The life of a reading: when to read, what a failure costs, what a reading is, the run's log, history."""
