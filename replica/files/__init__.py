"""What the bridge of files and documents (replica/bridge.py) is made of, a noun in each module."""
