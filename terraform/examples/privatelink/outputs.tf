output "service_name" {
  description = "The endpoint service's name, for the consumer, who creates an interface endpoint to it"
  value       = aws_vpc_endpoint_service.database.service_name
}

output "load_balancer_dns_name" {
  description = "The load balancer's name inside the VPC, to try it out"
  value       = aws_lb.database.dns_name
}

output "function_name" {
  description = "The function, to invoke it by hand"
  value       = module.hostname_targets.function_name
}

output "private_dns_record" {
  description = "The TXT record that AWS asks for, with a private_dns_name"
  value       = aws_vpc_endpoint_service.database.private_dns_name_configuration
}
