"""Sites of an NVFlare federation send releases or weights, never images; a server pools or averages what is valid."""
