"""Self-supervised methods: student, teacher and objective as one module."""
