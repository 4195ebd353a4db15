"""What was never answered: for each investigation answers(investigation), which yields (question, answer) one by one."""
