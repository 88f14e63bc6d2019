"""What terminals send a server to train on, a queue of jobs, and the process of each."""
