"""IPython magics and widgets over the public API; they hold no logic of their own."""
