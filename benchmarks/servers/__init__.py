"""The servers that are compared, each as one would write it by the documentation of what it is made of."""
