"""What a session will cost before anybody starts it: the formulas, and the real decisions under a virtual clock."""
