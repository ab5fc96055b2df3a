"""The schemas of requests and responses. The same classes validate data and describe it in the OpenAPI document."""
