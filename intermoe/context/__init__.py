"""The motion that another is generated to: a person who is given, or what goes before."""
