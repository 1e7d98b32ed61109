"""The usual ways to serve a network: small real servers, as users of each framework write them.

All take a photo as the request's body (BentoML: as a form's field) and answer with the five
likeliest classes. All read it with the handler's own decoder and resize, which a user would have to
write first: what differs is the engine and the server.
"""
