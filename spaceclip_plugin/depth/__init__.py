"""What comes out: depth maps, the cameras they belong to, and how a tower's image lies in a camera's."""
