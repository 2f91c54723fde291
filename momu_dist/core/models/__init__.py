"""Networks written for one device; where they are placed is another layer's business."""
