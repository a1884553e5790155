"""What a callback is made of: each part attaches to the model, forgets a reading or commits it, and has its state."""
